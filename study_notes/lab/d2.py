from distill import *
m,L,S,E=prepare('city','clean',.3,views=('s1','s1f','s1.25','s1.25f','s1.5','s1.5f'))
A=('s1','s1f'); B=('s1','s1f','s1.25','s1.25f'); Cc=B+('s1.5','s1.5f')
for n,c in dict(s1=('s1',),f=A,mv=Cc,mv2=Cc[2:],s125=('s1.25',)).items():
    cs={}
    for ep in E:
        t=target(ep['P'],{**DEF,'target':c}).argmax(1).numpy(); cs[ep['k']]=cs.get(ep['k'],0)+conf(ep['gtl'],t)
    print('teacher on warm-up',n,f'{miou(sum(cs.values())):.1f}',' '.join(f'{miou(x):.1f}' for x in cs.values()),'|',' '.join(f'{x:.0f}' for x in iou(sum(cs.values()))),flush=True)
run(m,L,S,E,{
 'gt decoder':dict(target=('gt',),wise=(.5,1.)),
 'gt cls':dict(target=('gt',),params='cls'),
 'gt last':dict(target=('gt',),params='last'),
 'mv cls':dict(target=Cc,params='cls'),
 'mv norm':dict(target=Cc,params='norm'),
 'mv decoder':dict(target=Cc),
},'d2')
