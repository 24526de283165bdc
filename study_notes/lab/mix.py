from restore import *
m=load_model(CITY)
def evalf(m,ims,f,sc=1.0):
    c=np.zeros((11,11),int)
    for im,gt in ims:
        x=f(im); size=tuple(int(round(v*sc/16))*16 for v in (368,480))
        p=m.enlarge_logits(logits(m,x[None],size).softmax(1),(360,480))[0,:11].argmax(0).numpy(); c+=conf(gt,p)
    return c
for cond in sys.argv[1].split(','):
  t0=time.time(); C={}
  def add(n,k,c): C[n,k]=C.get((n,k),0)+c
  for k,t,ev in episodes(30,(1,4)):
    co=corruptor(cond,t); clip,_=pseudo(t,10); clip=np.stack([co(clip[i],i) for i in (0,4,9)])
    evs=[(co(image(e),100+j),labels(e)) for j,e in enumerate(ev)]
    O=options(clip)
    for n in ('none','levels+gamma','levels','bilateral','bil+lv','blur1.2+lv'):
        f=O[n]; L,S,T=bn_stats(m,m.preprocess(np.stack([f(x) for x in clip]),PS,CPU))
        for sh in ((0,.3,.6) if n in('none','levels+gamma') else (.3,)):
            set_stats(L,lerp(S,T,sh)); add(f'{n} {sh}',k,evalf(m,evs,f))
            if n=='none' and sh<.6: add(f'x1.25 {sh}',k,evalf(m,evs,f,1.25))
        if n=='none':
            names=[a for a,b in m.named_modules() if isinstance(b,torch.nn.BatchNorm2d)]; enc=[a.startswith('base_net') for a in names]
            early=[a.startswith(('base_net.level1','base_net.level2','base_net.level3')) for a in names]
            for nn_,w in dict(enc=[.3*e for e in enc],dec=[.3*(not e) for e in enc],early=[.3*e for e in early],late=[.3*(not e) for e in early],early5late2=[.5 if e else .2 for e in early],early2late5=[.2 if e else .5 for e in early],enc5dec2=[.5 if e else .2 for e in enc],enc2dec5=[.2 if e else .5 for e in enc]).items():
                set_stats(L,lerp(S,T,w)); add('bn '+nn_,k,evalf(m,evs,f))
            set_stats(L,[(a.lerp(c,.3),b) for (a,b),(c,d) in zip(S,T)]); add('bn mean',k,evalf(m,evs,f))
            set_stats(L,[(a,b.lerp(d,.3)) for (a,b),(c,d) in zip(S,T)]); add('bn var',k,evalf(m,evs,f))
            set_stats(L,[(a.lerp(c,.3),(b.sqrt().lerp(d.sqrt(),.3))**2) for (a,b),(c,d) in zip(S,T)]); add('bn sd',k,evalf(m,evs,f))
            set_stats(L,[(a.lerp(c,.3),b.lerp(d,.3)+.21*(a-c)**2) for (a,b),(c,d) in zip(S,T)]); add('bn mixture var',k,evalf(m,evs,f))
        set_stats(L,S)
  for n in dict.fromkeys(a for a,_ in C):
    print(cond,f'{n:18s} {miou(sum(C[n,k] for k in DR)):.1f} |',' '.join(f'{miou(C[n,k]):.1f}' for k in DR),flush=True)
  print(f'{time.time()-t0:.0f}s',flush=True); save(f'mix_{cond}',{f'{a}|{b}':c.tolist() for (a,b),c in C.items()})
